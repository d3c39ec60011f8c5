// wide: copies 16 bytes per thread. Requires rows and a destination offset that are multiples of 16 bytes.
//
// Unit:    one vector of a row of the run's output.
// Shapes:  planes, output   as in gather, in vectors of 16 bytes
// Bounds:  a unit past the rows of the part is dropped.

override ROW_VECTORS: u32; // vectors in a row

@group(0) @binding(1) var<storage, read> planes: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> output: array<vec4<u32>>;

fn gather_unit(place: Place, part: Part, unit: u32) {
    let row = unit / ROW_VECTORS;
    if row >= part.rows {
        return;
    }
    let slot = part.slot + row;
    let vector = unit % ROW_VECTORS;
    var bits = vec4<u32>();
    if slot >= place.run.start {
        bits = planes[(place.plane * SLOTS + slot) * ROW_VECTORS + vector];
    }
    let plane = output_plane(place);
    output[window.offset / (4u * LANES) + (plane * window.rows + part.row + row) * ROW_VECTORS + vector] = bits;
}
