// chunk: four positions of each group, from the loads to the sums. `side` is a chunk that every row sees in whole, or
// one at an edge of what is seen: see/ has what differs.

#import see/{all,some}.wgsl as side

fn side_chunk(work: Work, base: u32) {
    let index = vec4<u32>(base + work.group) + vec4<u32>(0u, GROUPS, 2u * GROUPS, 3u * GROUPS);
#for p in 4
    let row_{p} = cache_row_at(work.plane, cache_slot(seen_position(work.seen, min(index[{p}], work.end - 1u))));
#end
#for k in KEY_UNITS
    let key_unit_{k} = min(work.lane * KEY_LANE_STEP + {k}u * KEY_UNIT_STEP, cache_key_units - 1u);
#for p in 4
    let key_{k}_of_{p} = cache_key_unit_of(row_{p}, key_unit_{k});
#end
#end
#for k in VALUE_UNITS
    let value_unit_{k} = min(work.lane * VALUE_LANE_STEP + {k}u * VALUE_UNIT_STEP, cache_value_units - 1u);
#for p in 4
    let value_{k}_of_{p} = cache_value_unit_of(row_{p}, value_unit_{k});
#end
#end

#for n in ROUNDS
    {
#for i in ROUND
        var dots_{i} = vec4<f32>();
#end
#for k in KEY_UNITS
#for j in KEY_UNIT_VECTORS
        {
            let unit = work.lane * KEY_LANE_STEP + {k}u * KEY_UNIT_STEP;
            let vector = unit * cache_key_unit_vectors + {j}u;
            // Columns are positions, so that a row times this is four dot products.
            let keys = mat4x4<f32>(
#for p in 4
                key_inside(cache_key_vector(key_{k}_of_{p}, {j}u), vector),
#end
            );
#for i in ROUND
            dots_{i} += query_of({n}u * ROUND + {i}u, {k}u * cache_key_unit_vectors + {j}u, work.lane) * keys;
#end
        }
#end
#end
        share_dots(
            work,
#for i in ROUND
            dots_{i},
#end
        );
    }
#for o in OWNERS
    if owns(work, {o}u) {
        let row = {n}u * ROUND + owned_row(work, {o}u);
        let group = owned_group(work, {o}u);
        let scores = side_scores(work, row, base + group, owned_dots(work, {o}u));
        let before = own_largest[{n}u * OWNERS + {o}u];
        let largest = max(before, max(max(scores.x, scores.y), max(scores.z, scores.w)));
        let factor = kept(before, largest);
        let weights = weights_of(scores, largest);
        own_largest[{n}u * OWNERS + {o}u] = largest;
        own_total[{n}u * OWNERS + {o}u] = own_total[{n}u * OWNERS + {o}u] * factor + dot(weights, vec4<f32>(1.0));
        give_weights(row, group, side_marked(scores, weights), factor);
    }
#end
    share_weights(work, {n}u);
#end

    let factors = array<vec4<f32>, ROW_FOURS>(
#for f in ROW_FOURS
        given_factors(work, {f}u),
#end
    );
    var moved = false;
#for r in ROWS
    let weights_{r} = given_weights(work, {r}u);
    moved = moved || factors[{r} / 4][{r} % 4] != 1.0;
#end
    if moved {
#for r in ROWS
#for v in VALUE_VECTORS
        sums[{r}u * VALUE_VECTORS + {v}u] *= factors[{r} / 4][{r} % 4];
#end
#end
    }
#for k in VALUE_UNITS
#for j in VALUE_UNIT_VECTORS
    {
        let values = mat4x4<f32>(
#for p in 4
            cache_value_vector(value_{k}_of_{p}, {j}u),
#end
        );
#for r in ROWS
        sums[{r}u * VALUE_VECTORS + {k}u * cache_value_unit_vectors + {j}u] += side_weighted(values, weights_{r});
#end
    }
#end
#end
}
