// rotate: RoPE (Su et al., "RoFormer", 2021) of queries and keys, in neighbouring pairs as GGUF has them.
//
// Grid:    x counts [row, head of queries or keys, pair].
// Shapes:  turns      cosine and sine, [position, PAIRS]
//          tokens     [row] of (token, position)
//          projected  [row, FEATURES], of which queries and keys are the first

override HEADS: u32;    // of queries and keys
override HEAD_DIM: u32;
override PAIRS: u32;    // of a head that are rotated
override FEATURES: u32;

@group(0) @binding(0) var<uniform> step: Step;
@group(0) @binding(1) var<storage, read> turns: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read> tokens: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read_write> projected: array<f32>;

@compute @workgroup_size(WORKGROUP)
fn rotate(@builtin(global_invocation_id) id: vec3<u32>) {
    let row = id.x / (HEADS * PAIRS);
    if row >= step.rows {
        return;
    }
    let head = id.x / PAIRS % HEADS;
    let pair = id.x % PAIRS;
    let turn = turns[tokens[row].y * PAIRS + pair];
    let at = row * FEATURES + head * HEAD_DIM + 2u * pair;
    let x = projected[at];
    let y = projected[at + 1u];
    projected[at] = x * turn.x - y * turn.y;
    projected[at + 1u] = x * turn.y + y * turn.x;
}
