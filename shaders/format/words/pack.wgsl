// pack: stores words of packed rows as they are in the source, without conversion.
//
// Unit:    one word of a row: its codes, then its scales.
// Bounds:  a unit at or past `run.end` is dropped.

#import ../../planes/side.wgsl as side

fn side_part(place: Place, run: Run, slot: u32, part: u32) {
    var word = 0u;
    if slot >= run.start {
        word = side_element(place, run.token + (slot - run.start), part);
    }
    if part < SIDE_CODE_WORDS {
        side_planes[side_codes_at(place.plane, slot, part)] = word;
    } else {
        side_planes[side_scales_at(place.plane, slot, part - SIDE_CODE_WORDS)] = word;
    }
}

fn side_write(place: Place, run: Run, unit: u32) {
    let slot = run.first + unit / SIDE_ROW_PARTS;
    if slot < run.end {
        side_part(place, run, slot, unit % SIDE_ROW_PARTS);
    }
}
