// part: what `product` computes, on a driver that runs on the CPU, from PART blocks of each row at a time.
//
// Grid:    x counts groups of WORKGROUP outputs. A dispatch has one tile of ROWS rows, and one part of its blocks.
// Shapes:  weights  [OUTPUTS, BLOCKS] blocks of 32 weights, as blocks/ reads them
//          inputs   [row, 32 × BLOCKS] from the tile and the part on
//          outputs  [row, STRIDE], from FIRST on; every part but the first adds to what is there
// Bounds:  rows past the last are computed and not written.
//
// A thread has an output for itself, so that all threads want the same inputs. Mesa loads them once for all threads if
// they are a uniform and their indices are constants, and once for each thread otherwise: that takes most of the time.
// A row is summed up by units of UNIT blocks, whatever the tile, the part and the number of rows: it has the same bits
// in every step.
//
// Before this the host writes BLOCKS, ROWS, PART, UNIT, and what reads a block. What is between `rows` and its end is
// there once a row, and likewise for the units of a part and the blocks of a unit.

override OUTPUTS: u32;
override STRIDE: u32;
override FIRST: u32;
override ADDS: bool;
override OF_WANTED: bool; // the rows are those that want logits

struct Number {
    value: u32,
}

@group(0) @binding(0) var<uniform> step: Step;
@group(0) @binding(1) var<storage, read> weights: array<vec4<u32>>;
@group(0) @binding(2) var<uniform> inputs: array<vec4<f32>, ((ROWS - 1) * BLOCKS + PART) * 8>;
@group(0) @binding(3) var<storage, read_write> outputs: array<f32>;
@group(0) @binding(4) var<uniform> first_row: Number;
@group(0) @binding(5) var<uniform> part: Number;

@compute @workgroup_size(WORKGROUP)
fn product(@builtin(global_invocation_id) id: vec3<u32>) {
    let first_block = min(id.x, OUTPUTS - 1u) * BLOCKS + part.value * PART;
//#units
//#rows
    var sum_{r}_{u} = 0.0;
//#end of rows
//#blocks
    {
        let w = weights_of(first_block + {u} * UNIT + {b});
//#rows
        sum_{r}_{u} += dot(w[0], inputs[({r} * BLOCKS + {u} * UNIT + {b}) * 8 + 0]);
//#end of rows
//#rows
        sum_{r}_{u} += dot(w[1], inputs[({r} * BLOCKS + {u} * UNIT + {b}) * 8 + 1]);
//#end of rows
//#rows
        sum_{r}_{u} += dot(w[2], inputs[({r} * BLOCKS + {u} * UNIT + {b}) * 8 + 2]);
//#end of rows
//#rows
        sum_{r}_{u} += dot(w[3], inputs[({r} * BLOCKS + {u} * UNIT + {b}) * 8 + 3]);
//#end of rows
//#rows
        sum_{r}_{u} += dot(w[4], inputs[({r} * BLOCKS + {u} * UNIT + {b}) * 8 + 4]);
//#end of rows
//#rows
        sum_{r}_{u} += dot(w[5], inputs[({r} * BLOCKS + {u} * UNIT + {b}) * 8 + 5]);
//#end of rows
//#rows
        sum_{r}_{u} += dot(w[6], inputs[({r} * BLOCKS + {u} * UNIT + {b}) * 8 + 6]);
//#end of rows
//#rows
        sum_{r}_{u} += dot(w[7], inputs[({r} * BLOCKS + {u} * UNIT + {b}) * 8 + 7]);
//#end of rows
    }
//#end of blocks
//#end of units
    let rows = select(step.rows, step.wanted, OF_WANTED);
//#rows
    if first_row.value + {r} < rows && id.x < OUTPUTS {
        let at = (first_row.value + {r}) * STRIDE + FIRST + id.x;
        var sum = 0.0;
        if ADDS || part.value > 0u {
            sum = outputs[at];
        }
//#units
        sum += sum_{r}_{u};
//#end of units
        outputs[at] = sum;
    }
//#end of rows
}
