// staged: workgroup memory holds the queries of the tile, [row, vector of a thread, lane].

#import query.wgsl

var<workgroup> staged_queries: array<vec4<f32>, ROWS * KEY_VECTORS * LANES>;

fn take_queries(work: Work) {
    for (var at = work.local; at < ROWS * KEY_VECTORS * LANES; at += WORKGROUP) {
        let row = row_of(work.place, at / (KEY_VECTORS * LANES));
        let own = at / LANES % KEY_VECTORS;
        let unit = at % LANES * KEY_LANE_STEP + own / cache_key_unit_vectors * KEY_UNIT_STEP;
        staged_queries[at] = query_vector(row, unit * cache_key_unit_vectors + own % cache_key_unit_vectors);
    }
    workgroupBarrier();
}

fn query_of(row: u32, vector: u32, lane: u32) -> vec4<f32> {
    return staged_queries[(row * KEY_VECTORS + vector) * LANES + lane];
}
