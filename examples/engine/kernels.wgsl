// The engine's own kernels. A row is one token of a sequence: [sequence, token of the step].

struct Shape {
    sequences: u32,
    tokens: u32, // of this step, at most
    spare_0: u32,
    spare_1: u32,
}

override MOST_TOKENS: u32; // rows of a sequence in every buffer
override HIDDEN: u32;
override QUERIES: u32;     // features of the queries of a token
override FEATURES: u32;    // of queries, keys and values
override ROTATED: u32;     // of queries and keys
override DIM: u32;         // of one head

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read_write> hidden: array<f32>;     // [sequence, token, HIDDEN]
@group(0) @binding(2) var<storage, read_write> projected: array<f32>;  // [sequence, token, FEATURES]
@group(0) @binding(3) var<storage, read_write> attended: array<f32>;   // [sequence, token, QUERIES]
@group(0) @binding(4) var<storage, read> weights: array<f32>;          // [HIDDEN, FEATURES], then [QUERIES, HIDDEN]
@group(0) @binding(5) var<storage, read> rotations: array<vec2<f32>>;  // cosine and sine, [position, DIM / 2]
@group(0) @binding(6) var<storage, read> positions: array<u32>;        // of each sequence's first row in this step

// Returns the row of element `index` at `width` elements per row, or 0xffffffff past the last row.
fn row_of(index: u32, width: u32) -> u32 {
    let row = index / width;
    let sequence = row / shape.tokens;
    return select(0xffffffffu, sequence * MOST_TOKENS + row % shape.tokens, sequence < shape.sequences);
}

// Projects the normalised hidden state to queries, keys and values.
@compute @workgroup_size(64)
fn project(@builtin(global_invocation_id) id: vec3<u32>) {
    let row = row_of(id.x, FEATURES);
    let feature = id.x % FEATURES;
    if row == 0xffffffffu {
        return;
    }
    var squares = 0.0;
    var sum = 0.0;
    for (var i = 0u; i < HIDDEN; i++) {
        let x = hidden[row * HIDDEN + i];
        squares += x * x;
        sum += x * weights[i * FEATURES + feature];
    }
    projected[row * FEATURES + feature] = sum * inverseSqrt(squares / f32(HIDDEN) + 1.0e-5);
}

// Applies RoPE (Su et al., "RoFormer", 2021) to queries and keys, by the position of each row.
@compute @workgroup_size(64)
fn rotate(@builtin(global_invocation_id) id: vec3<u32>) {
    let row = row_of(id.x, ROTATED / 2u);
    let pair = id.x % (ROTATED / 2u);
    if row == 0xffffffffu {
        return;
    }
    let position = positions[row / MOST_TOKENS] + row % MOST_TOKENS;
    let turn = rotations[position * (DIM / 2u) + pair % (DIM / 2u)];
    let at = row * FEATURES + 2u * pair;
    let x = projected[at];
    let y = projected[at + 1u];
    projected[at] = x * turn.x - y * turn.y;
    projected[at + 1u] = x * turn.y + y * turn.x;
}

// Adds the output projection of the attention to the hidden state.
@compute @workgroup_size(64)
fn add(@builtin(global_invocation_id) id: vec3<u32>) {
    let row = row_of(id.x, HIDDEN);
    let feature = id.x % HIDDEN;
    if row == 0xffffffffu {
        return;
    }
    var sum = hidden[row * HIDDEN + feature];
    for (var i = 0u; i < QUERIES; i++) {
        sum += attended[row * QUERIES + i] * weights[HIDDEN * FEATURES + i * HIDDEN + feature];
    }
    hidden[row * HIDDEN + feature] = sum;
}
