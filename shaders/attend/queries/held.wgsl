// held: each thread holds the vectors of the queries that its units of a key meet.

#import query.wgsl

var<private> held_queries: array<vec4<f32>, ROWS * KEY_VECTORS>;

fn take_queries(work: Work) {
#for r in ROWS
    {
        let row = row_of(work.place, {r}u);
#for k in KEY_UNITS
#for j in KEY_UNIT_VECTORS
        {
            let unit = work.lane * KEY_LANE_STEP + {k}u * KEY_UNIT_STEP;
            let vector = unit * cache_key_unit_vectors + {j}u;
            held_queries[{r}u * KEY_VECTORS + {k}u * cache_key_unit_vectors + {j}u] = query_vector(row, vector);
        }
#end
#end
    }
#end
}

fn query_of(row: u32, vector: u32, lane: u32) -> vec4<f32> {
    return held_queries[row * KEY_VECTORS + vector];
}
