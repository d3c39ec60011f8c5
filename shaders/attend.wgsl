// attend: softmax(queries × keysᵀ) × values over one layer of the cache, by an online softmax in f32. Reads each key and value
// once for all rows of its tile: a row is a query head of a token, and a tile holds all query heads of a KV head, up to 32.
//
// Grid:    x counts splits of the positions, y tiles of rows, z planes [sequence, kv_head]. One workgroup each.
// Shapes:  queries    strided [sequence, head, token, key_dim]
//          output     strided [sequence, head, token, value_dim]; or
//          partials   [plane, row, split, value vectors and then (largest score, sum of weights)]
//          mask       broadcast [sequence, head, token, position], added to the scores
// Bounds:  rows past the last of a plane are neither read nor written; only positions that some row sees are read.
//
// Before this stand the constants of the variant, the text that reads the cache with the prefix cache_, and the other attend_ files.

// In place of minus infinity; what is no larger is not seen.
const HIDDEN = -3.0e38;

var<workgroup> staged_queries: array<vec4<f32>, STAGED_VECTORS>;
var<workgroup> scores: array<f32, ROWS * WORKGROUP>;
var<workgroup> slots: array<u32, WORKGROUP>;
var<workgroup> row_largest: array<f32, ROWS>;
var<workgroup> row_sum: array<f32, ROWS>;
var<workgroup> row_factor: array<f32, ROWS>;
var<workgroup> lanes: array<vec4<f32>, WORKGROUP>;

// Values of each thread: vector `local % VALUE_THREADS` of positions `local / VALUE_THREADS`, and every so many after.
const VALUE_THREADS = min(cache_value_vectors, WORKGROUP);
const VALUE_LANES = WORKGROUP / VALUE_THREADS;
const VALUE_TURNS = (cache_value_vectors + VALUE_THREADS - 1u) / VALUE_THREADS;

fn query_vector(row: Row, vector: u32) -> vec4<f32> {
    let at = row.query + 4u * vector;
    var numbers = vec4<f32>();
    for (var i = 0u; i < 4u; i++) {
        if 4u * vector + i < cache_key_dim {
            numbers[i] = query_element(at + i);
        }
    }
    return numbers;
}

// What is seen by some row of a tile: positions below `sinks`, and from `first` to before `end`.
struct Seen {
    sinks: u32,
    first: u32,
    end: u32,
    count: u32,
}

fn seen_by(length: u32, first_row: u32) -> Seen {
    // Positions of the tile's first and last query; negative where the sequence is shorter than the queries.
    let before = i32(length) - i32(params.tokens);
    let last_row = min(first_row + ROWS, params.tokens * GROUP) - 1u;
    let earliest = select(i32(length) - 1, before + i32(first_row / GROUP), CAUSAL);
    let latest = select(i32(length) - 1, before + i32(last_row / GROUP), CAUSAL);
    let end = u32(max(latest + 1, 0));
    let sinks = min(SINKS, end);
    var first = sinks;
    if WINDOWED {
        first = max(sinks, u32(max(earliest + 1 - i32(WINDOW), 0)));
    }
    first = min(first, end);
    return Seen(sinks, first, end, sinks + (end - first));
}

fn seen_position(seen: Seen, index: u32) -> u32 {
    return select(seen.first + (index - seen.sinks), index, index < seen.sinks);
}

fn is_seen(row: Row, length: u32, position: u32) -> bool {
    let query = select(i32(length) - 1, i32(length) - i32(params.tokens) + i32(row.token), CAUSAL);
    let causal = i32(position) <= query;
    let near = !WINDOWED || position < SINKS || i32(position) + i32(WINDOW) > query;
    return row.inside && causal && near;
}

@compute @workgroup_size(WORKGROUP)
fn attend(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let plane = group.z;
    let sequence = plane / cache_heads;
    let first_row = group.y * ROWS;
    let length = cache_length(sequence);
    let seen = seen_by(length, first_row);
    let whole = (seen.count + SPLITS * WORKGROUP - 1u) / (SPLITS * WORKGROUP) * WORKGROUP;
    let start = min(group.x * whole, seen.count);
    let end = min(start + whole, seen.count);

    if STAGED {
        for (var i = local; i < ROWS * cache_key_vectors; i += WORKGROUP) {
            let row = row_of(plane, first_row + i / cache_key_vectors);
            staged_queries[i] = vec4<f32>();
            if row.inside {
                staged_queries[i] = query_vector(row, i % cache_key_vectors);
            }
        }
    }
    for (var r = local; r < ROWS; r += WORKGROUP) {
        row_largest[r] = HIDDEN;
        row_sum[r] = 0.0;
        row_factor[r] = 0.0;
    }
    workgroupBarrier();

    var sums: array<vec4<f32>, ROWS * VALUE_TURNS>;
    for (var base = start; base < end; base += WORKGROUP) {
        // Scores of one position a thread.
        var dots: array<f32, ROWS>;
        let index = base + local;
        let position = seen_position(seen, min(index, end - 1u));
        let slot = cache_slot(position);
        slots[local] = slot;
        for (var vector = 0u; vector < cache_key_vectors; vector++) {
            let key = cache_key_at(plane, slot, vector);
            for (var r = 0u; r < ROWS; r++) {
                if STAGED {
                    dots[r] += dot(staged_queries[r * cache_key_vectors + vector], key);
                } else {
                    let row = row_of(plane, min(first_row + r, params.tokens * GROUP - 1u));
                    dots[r] += dot(query_vector(row, vector), key);
                }
            }
        }
        for (var r = 0u; r < ROWS; r++) {
            let row = row_of(plane, first_row + r);
            var score = HIDDEN;
            if index < end && is_seen(row, length, position) {
                let wanted = masked(row, position, capped(dots[r] * params.scale));
                score = select(wanted, HIDDEN, wanted <= HIDDEN);
            }
            scores[r * WORKGROUP + local] = score;
        }
        workgroupBarrier();
        for (var r = local; r < ROWS; r += WORKGROUP) {
            var largest = row_largest[r];
            for (var i = 0u; i < WORKGROUP; i++) {
                largest = max(largest, scores[r * WORKGROUP + i]);
            }
            // Of nothing seen so far, nothing is kept.
            row_factor[r] = select(exp(row_largest[r] - largest), 0.0, row_largest[r] <= HIDDEN);
            row_largest[r] = largest;
        }
        workgroupBarrier();
        for (var r = 0u; r < ROWS; r++) {
            let score = scores[r * WORKGROUP + local];
            scores[r * WORKGROUP + local] = select(exp(score - row_largest[r]), 0.0, score <= HIDDEN);
        }
        workgroupBarrier();
        for (var r = local; r < ROWS; r += WORKGROUP) {
            var sum = 0.0;
            for (var i = 0u; i < WORKGROUP; i++) {
                sum += scores[r * WORKGROUP + i];
            }
            row_sum[r] = row_sum[r] * row_factor[r] + sum;
        }
        for (var turn = 0u; turn < VALUE_TURNS; turn++) {
            let vector = local % VALUE_THREADS + turn * VALUE_THREADS;
            for (var r = 0u; r < ROWS; r++) {
                sums[r * VALUE_TURNS + turn] *= row_factor[r];
            }
            if local < VALUE_THREADS * VALUE_LANES && vector < cache_value_vectors {
                for (var i = local / VALUE_THREADS; i < min(WORKGROUP, end - base); i += VALUE_LANES) {
                    let value = cache_value_at(plane, slots[i], vector);
                    for (var r = 0u; r < ROWS; r++) {
                        // What a row does not see has no part in it, whatever it is.
                        let weight = scores[r * WORKGROUP + i];
                        sums[r * VALUE_TURNS + turn] += select(weight * value, vec4<f32>(), weight == 0.0);
                    }
                }
            }
        }
        workgroupBarrier();
    }

    for (var r = 0u; r < ROWS; r++) {
        for (var turn = 0u; turn < VALUE_TURNS; turn++) {
            let vector = local % VALUE_THREADS + turn * VALUE_THREADS;
            lanes[local] = sums[r * VALUE_TURNS + turn];
            workgroupBarrier();
            if local < VALUE_THREADS && vector < cache_value_vectors {
                var sum = lanes[local];
                for (var lane = 1u; lane < VALUE_LANES; lane++) {
                    sum += lanes[local + lane * VALUE_THREADS];
                }
                let row = row_of(plane, first_row + r);
                if row.inside {
                    finish(row, plane, group.x, vector, sum, row_largest[r], row_sum[r]);
                }
            }
            workgroupBarrier();
        }
    }
}
