// wide: writes the rows of a run eight elements per thread, as whole vec4<u32>. Requires a head size that is a multiple
// of eight. source/wide defines `side_eight`.
//
// Unit:    eight elements of one row.
// Shapes:  side_planes   [plane, slot, dim], in vectors of 16 bytes
// Bounds:  a unit at or past `run.end` is dropped.

#import ../source/eight.wgsl

override SIDE_ROW_UNITS: u32;    // units in a row
override SIDE_PLANE_UNITS: u32;  // units in a plane
override SIDE_UNIT_VECTORS: u32; // vectors in a unit: 2 for a 32-bit format, else 1

@group(0) @binding(SIDE_BINDING) var<storage, read_write> side_planes: array<vec4<u32>>;

fn side_write(place: Place, run: Run, unit: u32) {
    let slot = run.first + unit / SIDE_ROW_UNITS;
    if slot < run.end {
        let part = unit % SIDE_ROW_UNITS;
        var eight = Eight();
        if slot >= run.start {
            eight = side_eight(place, run.token + (slot - run.start), part * 8u);
        }
        let at = (place.plane * SIDE_PLANE_UNITS + slot * SIDE_ROW_UNITS + part) * SIDE_UNIT_VECTORS;
        side_planes[at] = eight.low;
        if SIDE_UNIT_VECTORS == 2u {
            side_planes[at + 1u] = eight.high;
        }
    }
}
