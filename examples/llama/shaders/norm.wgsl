// norm: RMS norm (Zhang and Sennrich, 2019) of each row, or of those rows that want logits.
//
// Grid:    x counts rows; a workgroup each.
// Shapes:  gains    [WIDTH]
//          hidden   [row, WIDTH]
//          wanted   [row of the result]
//          normed   [row, WIDTH]

override WIDTH: u32; // in vectors of 4
override EPSILON: f32;
override OF_WANTED: bool;

@group(0) @binding(0) var<storage, read> gains: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> hidden: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> wanted: array<u32>;
@group(0) @binding(3) var<storage, read_write> normed: array<vec4<f32>>;

var<workgroup> parts: array<f32, WORKGROUP>;

@compute @workgroup_size(WORKGROUP)
fn norm(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    var row = group.x;
    if OF_WANTED {
        row = wanted[group.x];
    }
    var squares = vec4<f32>();
    for (var i = local; i < WIDTH; i += WORKGROUP) {
        let x = hidden[row * WIDTH + i];
        squares += x * x;
    }
    parts[local] = (squares.x + squares.y) + (squares.z + squares.w);
    workgroupBarrier();
    for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
        if local < half {
            parts[local] += parts[local + half];
        }
        workgroupBarrier();
    }
    let scale = 1.0 / sqrt(parts[0] / f32(4u * WIDTH) + EPSILON);
    for (var i = local; i < WIDTH; i += WORKGROUP) {
        normed[group.x * WIDTH + i] = hidden[row * WIDTH + i] * scale * gains[i];
    }
}
