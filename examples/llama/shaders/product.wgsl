// product: y = W x, or y += W x, for rows of x and a matrix of weights in the blocks of a GGUF file.
//
// Grid:    x counts groups of outputs, y tiles of ROWS rows.
// Shapes:  weights  [OUTPUTS, BLOCKS] blocks of 32 weights, as blocks/ reads them
//          inputs   [row, 32 × BLOCKS], with whole tiles
//          outputs  [row, STRIDE], from FIRST on
// Bounds:  rows past the last are computed and not written.
//
// SHARE neighbouring threads take the blocks of an output in turn; one thread adds up their parts in order. A row is
// summed up in one order, whatever the tile and the number of rows: it has the same bits in every step.
//
// Before this the host writes BLOCKS, SHARE, ROWS, and what reads a block. What is between `rows` and its end is there
// once a row.

override OUTPUTS: u32;
override STRIDE: u32;
override FIRST: u32;
override ADDS: bool;
override OF_WANTED: bool; // the rows are those that want logits

const GROUP = WORKGROUP / SHARE;

@group(0) @binding(0) var<uniform> step: Step;
@group(0) @binding(1) var<storage, read> weights: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> inputs: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> outputs: array<f32>;

var<workgroup> parts: array<f32, ROWS * WORKGROUP>;

@compute @workgroup_size(WORKGROUP)
fn product(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let output = group.x * GROUP + local / SHARE;
    let first_block = min(output, OUTPUTS - 1u) * BLOCKS;
    let first_row = group.y * ROWS;
//#rows
    var sum_{r} = vec4<f32>();
//#end of rows
    for (var block = local % SHARE; block < BLOCKS; block += SHARE) {
        let w = weights_of(first_block + block);
//#rows
        {
            let at = ((first_row + {r}) * BLOCKS + block) * 8u;
            sum_{r} += w[0] * inputs[at];
            sum_{r} += w[1] * inputs[at + 1u];
            sum_{r} += w[2] * inputs[at + 2u];
            sum_{r} += w[3] * inputs[at + 3u];
            sum_{r} += w[4] * inputs[at + 4u];
            sum_{r} += w[5] * inputs[at + 5u];
            sum_{r} += w[6] * inputs[at + 6u];
            sum_{r} += w[7] * inputs[at + 7u];
        }
//#end of rows
    }
//#rows
    parts[{r} * WORKGROUP + local] = (sum_{r}.x + sum_{r}.y) + (sum_{r}.z + sum_{r}.w);
//#end of rows
    workgroupBarrier();
    let rows = select(step.rows, step.wanted, OF_WANTED);
    for (var i = local; i < ROWS * GROUP; i += WORKGROUP) {
        let row = first_row + i / GROUP;
        let written = group.x * GROUP + i % GROUP;
        if row < rows && written < OUTPUTS {
            var sum = 0.0;
            for (var lane = 0u; lane < SHARE; lane++) {
                sum += parts[i / GROUP * WORKGROUP + i % GROUP * SHARE + lane];
            }
            let at = row * STRIDE + FIRST + written;
            if ADDS {
                sum += outputs[at];
            }
            outputs[at] = sum;
        }
    }
}
