// pack: converts four elements to one word of a row. Elements past the head size are zero.
//
// Unit:    one word of a row.
// Bounds:  a unit at or past `run.end` is dropped.

#import fp8_e4m3.wgsl
#import ../float/float.wgsl
#import ../../planes/side.wgsl as side

override SIDE_SCALED: bool; // whether the scale of the side is not 1

fn side_code(place: Place, token: u32, dim: u32) -> u32 {
    if dim >= SIDE_DIM {
        return 0u;
    }
    var bits = side_element(place, token, dim);
    if SIDE_SCALED && (bits & 0x7fffffffu) < 0x7f800000u {
        bits = float_divide(bits, lengths[arrayLength(&lengths) - SIDE_SCALE_FROM_END]);
    }
    return fp8_e4m3_encode(bits);
}

fn side_part(place: Place, run: Run, slot: u32, part: u32) {
    var word = 0u;
    if slot >= run.start {
        let token = run.token + (slot - run.start);
        let dim = part * 4u;
        for (var i = 0u; i < 4u; i++) {
            word |= side_code(place, token, dim + i) << (8u * i);
        }
    }
    side_planes[side_codes_at(place.plane, slot, part)] = word;
}

fn side_write(place: Place, run: Run, unit: u32) {
    let slot = run.first + unit / SIDE_ROW_PARTS;
    if slot < run.end {
        side_part(place, run, slot, unit % SIDE_ROW_PARTS);
    }
}
