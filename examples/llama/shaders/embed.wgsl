// embed: the row of each token in the embedding.
//
// Grid:    x counts [row, block of 32 weights].
// Shapes:  weights  [vocabulary, BLOCKS] blocks
//          tokens   [row] of (token, position)
//          hidden   [row, 32 × BLOCKS]

override BLOCKS: u32;

@group(0) @binding(0) var<uniform> step: Step;
@group(0) @binding(1) var<storage, read> weights: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> tokens: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read_write> hidden: array<vec4<f32>>;

@compute @workgroup_size(WORKGROUP)
fn embed(@builtin(global_invocation_id) id: vec3<u32>) {
    let row = id.x / BLOCKS;
    if row >= step.rows {
        return;
    }
    let w = weights_of(tokens[row].x * BLOCKS + id.x % BLOCKS);
    let at = id.x * 8u;
    hidden[at] = w[0];
    hidden[at + 1u] = w[1];
    hidden[at + 2u] = w[2];
    hidden[at + 3u] = w[3];
    hidden[at + 4u] = w[4];
    hidden[at + 5u] = w[5];
    hidden[at + 6u] = w[6];
    hidden[at + 7u] = w[7];
}
