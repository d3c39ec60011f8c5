// attend: softmax(queries × keysᵀ) × values over one layer of the cache, by an online softmax in f32. Reads each key
// and value once for all rows of its tile: a row is a query head of a token, and a tile holds all query heads of a KV
// head, up to 32.
//
// Grid:    x counts splits of the positions, y tiles of rows, z planes [sequence, kv_head]. One workgroup each.
// Shapes:  queries    strided [sequence, head, token, key_dim]
//          output     strided [sequence, head, token, value_dim]; or
//          partials   as parts/split has them
//          mask       broadcast [sequence, head, token, position], added to the scores
// Bounds:  rows past the queries of a sequence are neither read nor written; only positions that some row sees are
//          read.
//
// Before this the host writes the sizes of arrays (WORKGROUP; ROWS of a tile; STAGED_VECTORS, queries kept in workgroup
// memory), and read/read with the prefix cache_.

#import params.wgsl
#import scores.wgsl
#import parts/{whole,split}.wgsl
#import mask/{none,added}.wgsl
#import ../format/{bits,f16,bf16}/decode.wgsl as query

override STAGED: bool;     // queries are kept in workgroup memory
override CAUSAL: bool;
override WINDOWED: bool;   // a query sees SINKS positions, and WINDOW up to its own
override WINDOW: u32;
override SINKS: u32;
override QUERY_LANES: u32; // elements of a word: 2 of a 16-bit format, else 1

@group(0) @binding(1) var<storage, read> queries: array<u32>;

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

fn query_element(at: u32) -> f32 {
    if QUERY_LANES == 1u {
        return bitcast<f32>(queries[at]);
    }
    return bitcast<f32>(query_decode((queries[at / 2u] >> (at % 2u * 16u)) & 0xffffu));
}

fn query_within(at: u32, inside: bool) -> f32 {
    if inside {
        return query_element(at);
    }
    return 0.0;
}

fn query_vector(row: Row, vector: u32) -> vec4<f32> {
    let at = row.query + 4u * vector;
    let left = cache_key_dim - 4u * vector;
    return vec4<f32>(
        query_element(at),
        query_within(at + 1u, left > 1u),
        query_within(at + 2u, left > 2u),
        query_within(at + 3u, left > 3u),
    );
}

// The queries of a plane.
struct Queries {
    plane: u32,
    length: u32, // of the sequence
    start: u32,  // position of the first row just written
    count: u32,  // rows of queries
}

// A part of the work on a plane: split `split` of `splits`, where a plane has room for `rows` rows of partial sums.
struct Part {
    plane: u32,
    rows: u32,
    split: u32,
    splits: u32,
}

// Positions up to and with that of the query of a token: it sees none after them.
fn end_of(queries: Queries, token: u32) -> u32 {
    if !CAUSAL {
        return queries.length;
    }
    if WRITTEN {
        return queries.start + token + 1u;
    }
    return queries.length - min(queries.length, params.tokens - 1u - token);
}

// What is seen by some row of a tile: positions below `sinks`, and from `first` on, `count` together.
struct Seen {
    sinks: u32,
    first: u32,
    count: u32,
}

fn seen_by(queries: Queries, first_row: u32) -> Seen {
    let rows = queries.count * GROUP;
    if first_row >= rows {
        return Seen();
    }
    let last_row = min(first_row + ROWS, rows) - 1u;
    let earliest = end_of(queries, first_row / GROUP);
    let latest = end_of(queries, last_row / GROUP);
    let sinks = min(SINKS, latest);
    var first = sinks;
    if WINDOWED {
        first = min(max(sinks, earliest - min(earliest, WINDOW)), latest);
    }
    return Seen(sinks, first, sinks + (latest - first));
}

fn seen_position(seen: Seen, index: u32) -> u32 {
    return select(seen.first + (index - seen.sinks), index, index < seen.sinks);
}

fn is_seen(queries: Queries, row: Row, position: u32) -> bool {
    let end = end_of(queries, row.token);
    let near = !WINDOWED || position < SINKS || end - position <= WINDOW;
    return row.inside && position < end && near;
}

fn score_of(row: Row, position: u32, product: f32) -> f32 {
    let added = mask_at(row, position);
    let score = nan_of_infinity(capped(product * params.scale) + added);
    return select(score, HIDDEN, is_hidden(added) || is_hidden(score));
}

@compute @workgroup_size(WORKGROUP)
fn attend(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    begin(group, groups, local);
    let plane = group.z;
    let sequence = plane / cache_heads;
    let first_row = group.y * ROWS;
    let length = cache_length(sequence);
    let written_from = cache_start(sequence);
    let queries_of_plane = Queries(plane, length, written_from, count_of(length, written_from));
    let part = Part(plane, groups.y * ROWS, group.x, groups.x);
    let seen = seen_by(queries_of_plane, first_row);
    let whole = (seen.count + part.splits * WORKGROUP - 1u) / (part.splits * WORKGROUP) * WORKGROUP;
    let start = min(part.split * whole, seen.count);
    let end = min(start + whole, seen.count);

    if STAGED {
        for (var i = local; i < ROWS * cache_key_vectors; i += WORKGROUP) {
            let row = row_of(plane, first_row + i / cache_key_vectors, queries_of_plane.count);
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
                    let last_row = max(queries_of_plane.count * GROUP, 1u) - 1u;
                    let row = row_of(plane, min(first_row + r, last_row), queries_of_plane.count);
                    dots[r] += dot(query_vector(row, vector), key);
                }
            }
        }
        for (var r = 0u; r < ROWS; r++) {
            let row = row_of(plane, first_row + r, queries_of_plane.count);
            var score = HIDDEN;
            if index < end && is_seen(queries_of_plane, row, position) {
                score = score_of(row, position, dots[r]);
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
            row_factor[r] = select(exp_or_nan(row_largest[r] - largest), 0.0, is_hidden(row_largest[r]));
            row_largest[r] = largest;
        }
        workgroupBarrier();
        for (var r = 0u; r < ROWS; r++) {
            let score = scores[r * WORKGROUP + local];
            scores[r * WORKGROUP + local] = select(exp_or_nan(score - row_largest[r]), UNSEEN, is_hidden(score));
        }
        workgroupBarrier();
        for (var r = local; r < ROWS; r += WORKGROUP) {
            var sum = 0.0;
            for (var i = 0u; i < WORKGROUP; i++) {
                let weight = scores[r * WORKGROUP + i];
                sum += select(weight, 0.0, is_unseen(weight));
            }
            row_sum[r] = row_sum[r] * row_factor[r] + sum;
        }
        for (var turn = 0u; turn < VALUE_TURNS; turn++) {
            let vector = local % VALUE_THREADS + turn * VALUE_THREADS;
            // Summed up by themselves, so that many positions do not round one after the other.
            var of_chunk: array<vec4<f32>, ROWS>;
            if local < VALUE_THREADS * VALUE_LANES && vector < cache_value_vectors {
                for (var i = local / VALUE_THREADS; i < min(WORKGROUP, end - base); i += VALUE_LANES) {
                    let value = cache_value_at(plane, slots[i], vector);
                    for (var r = 0u; r < ROWS; r++) {
                        let weight = scores[r * WORKGROUP + i];
                        of_chunk[r] += select(weight * value, vec4<f32>(), is_unseen(weight));
                    }
                }
            }
            for (var r = 0u; r < ROWS; r++) {
                sums[r * VALUE_TURNS + turn] = sums[r * VALUE_TURNS + turn] * row_factor[r] + of_chunk[r];
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
                let row = row_of(plane, first_row + r, queries_of_plane.count);
                if row.inside {
                    finish(row, part, vector, sum, row_largest[r], row_sum[r]);
                }
            }
            workgroupBarrier();
        }
    }
}
