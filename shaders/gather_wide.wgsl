// gather_wide: sixteen bytes a unit. Needs rows and a destination that are multiples of 16 bytes.

@group(0) @binding(1) var<storage, read> planes: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> output: array<vec4<u32>>;

fn gather_unit(plane: u32, unit: u32) {
    let row = unit / ROW_VECTORS;
    if row >= window.rows {
        return;
    }
    let slot = slot_of(plane, window.first_row + row);
    var bits = vec4<u32>();
    if slot != NOWHERE {
        bits = planes[((window.segment_plane + plane) * SLOTS + slot) * ROW_VECTORS + unit % ROW_VECTORS];
    }
    output[window.offset / (4u * LANES) + plane * window.rows * ROW_VECTORS + unit] = bits;
}
