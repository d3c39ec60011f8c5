// gather_wide: sixteen bytes a unit. Needs rows and a destination that are multiples of 16 bytes.

@group(0) @binding(1) var<storage, read> planes: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> output: array<vec4<u32>>;

fn gather_unit(unit: u32) {
    if unit >= window.planes * window.rows * ROW_VECTORS {
        return;
    }
    let part = unit % ROW_VECTORS;
    let row = unit / ROW_VECTORS;
    let plane = row / window.rows;
    let slot = slot_of(plane, window.first_row + row % window.rows);
    var bits = vec4<u32>();
    if slot != NOWHERE {
        bits = planes[((window.segment_plane + plane) * MAX_SEQ_LEN + slot) * ROW_VECTORS + part];
    }
    output[window.offset / (4u * LANES) + unit] = bits;
}
