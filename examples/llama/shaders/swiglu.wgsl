// swiglu: silu(gate) × up (Shazeer, "GLU Variants Improve Transformer", 2020).
//
// Grid:    x counts [row, WIDTH].
// Shapes:  gates      [row, WIDTH of gates and WIDTH of ups]
//          activated  [row, WIDTH]

override WIDTH: u32; // in vectors of 4

@group(0) @binding(0) var<uniform> step: Step;
@group(0) @binding(1) var<storage, read> gates: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> activated: array<vec4<f32>>;

@compute @workgroup_size(WORKGROUP)
fn swiglu(@builtin(global_invocation_id) id: vec3<u32>) {
    let row = id.x / WIDTH;
    if row >= step.rows {
        return;
    }
    let at = row * 2u * WIDTH + id.x % WIDTH;
    let gate = gates[at];
    activated[id.x] = gate / (1.0 + exp(-gate)) * gates[at + WIDTH];
}
