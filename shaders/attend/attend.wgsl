// attend: softmax(queries × keysᵀ) × values over one layer of the cache, by an online softmax in f32. A row is a query
// head of a token; a workgroup computes a tile of ROWS rows of one KV head over a part of the positions, and reads each
// key and value of that part once.
//
// Grid:    x counts splits of the positions, y tiles of rows, z what place/ says. One workgroup each.
// Shapes:  queries    strided [sequence, head, token, key_dim], or packed [token, head, key_dim]
//          output     likewise, of value_dim; or
//          partials   as parts/split has them
//          mask       broadcast [sequence, head, token, position], added to the scores
// Bounds:  rows past the queries of a sequence are neither read nor written; only positions that some row sees are
//          read.
//
// A chunk is 4 × GROUPS positions. LANES neighbouring threads are a group; it reads four positions at a time, and each
// of its threads the same units of all four, KEY_UNITS of the keys and VALUE_UNITS of the values. With 4 lanes and one
// unit a thread:
//
//                          unit 0    unit 1    unit 2    unit 3
//                        ┌─────────┬─────────┬─────────┬─────────┐
//     position p         │ thread 0│ thread 1│ thread 2│ thread 3│  group 0   p = first of the chunk
//     p + GROUPS         │    0    │    1    │    2    │    3    │  group 0
//     p + 2 GROUPS       │    0    │    1    │    2    │    3    │  group 0
//     p + 3 GROUPS       │    0    │    1    │    2    │    3    │  group 0
//     p + 1              │ thread 4│ thread 5│ thread 6│ thread 7│  group 1
//     …
//
// So neighbouring threads load neighbouring bytes, and a thread has 4 × (KEY_UNITS + VALUE_UNITS) loads in flight. Of a
// row of the tile, a thread computes the part of four dot products that its units give. Workgroup memory adds up the
// parts of a group, or shuffles of a subgroup do (share/); one thread, the owner of (row, group), makes weights of the
// four sums and keeps the largest score and the sum of weights that its group has seen of the row. Every group thus has
// an online softmax of its own, and no thread waits for another group's. A thread then adds weight × value to the part
// of the row's sum that its units give, which stays in registers. After the last chunk a tree joins the groups.
//
// Before this the host writes WORKGROUP, LANES, ROWS, ROUND, the units of a thread, and read/read with the prefix
// cache_, wide. The rows of a tile go through workgroup memory in rounds of ROUND.

#import params.wgsl
#import scores.wgsl
#import place/{strided,packed}.wgsl
#import seen.wgsl
#import parts/{whole,split}.wgsl
#import queries/{held,staged}.wgsl
#import share/{memory,subgroup}.wgsl
#import chunk.wgsl as whole, edge

const GROUPS = WORKGROUP / LANES;
const CHUNK = 4u * GROUPS;
const ROW_FOURS = (ROWS + 3u) / 4u;
const KEY_VECTORS = KEY_UNITS * cache_key_unit_vectors;
const VALUE_VECTORS = VALUE_UNITS * cache_value_unit_vectors;

// Some lanes have units, or a unit has elements, past the head size.
const KEY_PADDED = cache_key_dim != LANES * KEY_VECTORS * 4u;

// What lies past the head size is zero, though a clamped unit repeats elements and a block's scale may be infinite: the
// query is zero there, but zero times infinity is not.
fn key_inside(key: vec4<f32>, vector: u32) -> vec4<f32> {
    if KEY_PADDED {
        let dim = vec4<u32>(4u * vector) + vec4<u32>(0u, 1u, 2u, 3u);
        return select(vec4<f32>(), key, dim < vec4<u32>(cache_key_dim));
    }
    return key;
}

// Units of a row lie with the lanes alternately (LANE_STEP 1, UNIT_STEP LANES), or each lane has neighbouring ones.
override KEY_LANE_STEP: u32;
override KEY_UNIT_STEP: u32;
override VALUE_LANE_STEP: u32;
override VALUE_UNIT_STEP: u32;

// [row of the round, group, lane]: parts of dot products of four positions; at the end, parts of the groups' sums. A
// group has room for one lane more, so that threads which read the same lane of several groups meet no bank twice.
const PART_STRIDE = LANES + 1u;
var<workgroup> shared_parts: array<vec4<f32>, ROUND * GROUPS * PART_STRIDE>;
// [row, group]: weights of four positions; at the end, largest score and sum of weights.
var<workgroup> shared_weights: array<vec4<f32>, ROWS * GROUPS>;
// [four rows, group]: by what sums so far are multiplied; at the end, the group's largest score.
var<workgroup> shared_factors: array<vec4<f32>, ROW_FOURS * GROUPS>;

// Of each row, the sums of weight × value of the thread's vectors.
var<private> sums: array<vec4<f32>, ROWS * VALUE_VECTORS>;
// Of each (row, group) that the thread owns.
var<private> own_largest: array<f32, OWNED>;
var<private> own_total: array<f32, OWNED>;

// What a thread does.
struct Work {
    place: Place,
    plane: u32, // of the cache
    local: u32,
    lane: u32,
    group: u32,
    end: u32, // of the positions of the workgroup, as counted by seen_position
    seen: Seen,
}

// In a browser all members of a structure count as different in each thread if one is; barriers depend on these two.
@compute @workgroup_size(WORKGROUP)
fn attend(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, thread: Thread) {
    let local = index_of(thread);
    begin(group, groups, local);
    let place = place_of(group.y, group.z, local);
    let plane = cache_plane(place.sequence, place.head);
    let seen = seen_by(place);
    let share = (seen.count + groups.x * CHUNK - 1u) / (groups.x * CHUNK) * CHUNK;
    let start = min(group.x * share, seen.count);
    let end = min(start + share, seen.count);
    let work = Work(place, plane, local, local % LANES, local / LANES, end, seen);

    take_queries(work);
#for o in OWNED
    own_largest[{o}] = HIDDEN;
#end

    // Chunks that every row sees in whole lie together; those before and after take the longer way.
    let clean = clean_chunks(seen, start, end);
    for (var base = clean.x; base < clean.y; base += CHUNK) {
        whole_chunk(work, base);
    }
    for (var base = select(start, clean.y, start == clean.x); base < end; ) {
        edge_chunk(work, base);
        base += CHUNK;
        if base == clean.x {
            base = clean.y;
        }
    }

    // Joins what the groups have seen of each row: (largest score, sum of weights). Others may still read the weights
    // of the last chunk.
    workgroupBarrier();
#for n in ROUNDS
#for o in OWNERS
    if tells(work, {o}u) {
        let row = {n}u * ROUND + owned_row(work, {o}u);
        let of_group = owned_group(work, {o}u);
        let largest = own_largest[{n}u * OWNERS + {o}u];
        shared_weights[row * GROUPS + of_group] = vec4<f32>(largest, own_total[{n}u * OWNERS + {o}u], 0.0, 0.0);
        shared_factors[row / 4u * GROUPS + of_group][row % 4u] = largest;
    }
#end
#end
    workgroupBarrier();
    for (var half = GROUPS / 2u; half > 0u; half /= 2u) {
        for (var at = local; at < ROWS * half; at += WORKGROUP) {
            let here = at / half * GROUPS + at % half;
            let a = shared_weights[here];
            let b = shared_weights[here + half];
            let largest = max(a.x, b.x);
            let total = kept(a.x, largest) * a.y + kept(b.x, largest) * b.y;
            shared_weights[here] = vec4<f32>(largest, total, 0.0, 0.0);
        }
        workgroupBarrier();
    }
    let largest = array<vec4<f32>, ROW_FOURS>(
#for f in ROW_FOURS
        shared_factors[{f}u * GROUPS + work.group],
#end
    );
#for r in ROWS
    {
        let factor = kept(largest[{r} / 4][{r} % 4], shared_weights[{r}u * GROUPS].x);
#for v in VALUE_VECTORS
        sums[{r}u * VALUE_VECTORS + {v}u] *= factor;
#end
    }
#end
#for v in VALUE_VECTORS
#for n in ROUNDS
#for i in ROUND
    shared_parts[({i}u * GROUPS + work.group) * PART_STRIDE + work.lane] =
        sums[({n}u * ROUND + {i}u) * VALUE_VECTORS + {v}u];
#end
    workgroupBarrier();
    for (var i = local; i < ROUND * LANES; i += WORKGROUP) {
        let lane = i % LANES;
        var sum = vec4<f32>();
        for (var g = 0u; g < GROUPS; g++) {
            sum += shared_parts[(i / LANES * GROUPS + g) * PART_STRIDE + lane];
        }
        let unit = lane * VALUE_LANE_STEP + {v}u / cache_value_unit_vectors * VALUE_UNIT_STEP;
        let vector = unit * cache_value_unit_vectors + {v}u % cache_value_unit_vectors;
        let index = {n}u * ROUND + i / LANES;
        let row = row_of(place, index);
        if row.inside && vector < cache_value_vectors {
            let joined = shared_weights[index * GROUPS];
            let part = (((group.z * groups.y + group.y) * ROWS) + index) * groups.x + group.x;
            finish(row, part, vector, sum, joined.x, joined.y);
        }
    }
    workgroupBarrier();
#end
#end
}
