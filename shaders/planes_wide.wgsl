// planes_wide: writes the rows of a run eight elements at a time, as whole vec4<u32>. Needs a head size
// that is a multiple of eight. Joined once as key_ and once as value_.
//
// Unit:    eight elements of one row.
// Bounds:  a unit at or past `run.end` is dropped.

@group(0) @binding(SIDE_PLANES_BINDING) var<storage, read_write> side_planes: array<vec4<u32>>;

fn side_units(rows: u32) -> u32 {
    return rows * SIDE_ROW_UNITS;
}

fn side_write(plane: u32, sequence: u32, head: u32, run: Run, unit: u32) {
    let slot = run.first + unit / SIDE_ROW_UNITS;
    if slot >= run.end {
        return;
    }
    let part = unit % SIDE_ROW_UNITS;
    let at = (plane * SIDE_PLANE_UNITS + slot * SIDE_ROW_UNITS + part) * SIDE_UNIT_VECTORS;
    if slot < run.start {
        for (var i = 0u; i < SIDE_UNIT_VECTORS; i++) {
            side_planes[at + i] = vec4<u32>();
        }
    } else {
        side_move(at, sequence, head, run.token + (slot - run.start), part * 8u);
    }
}
