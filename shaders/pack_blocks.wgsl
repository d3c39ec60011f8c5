// pack_blocks: a part of a row is two blocks of 32 elements, whose scales share a word. Each element of the source is read once.
// Elements past the head size are zero. Joined once as key_ and once as value_, with pack_q8_0 or pack_q4_0.

// Writes the codes of a block and returns its scale, f16.
fn side_block(place: Place, token: u32, slot: u32, block: u32) -> u32 {
    var elements: array<u32, 32>;
    var largest = 0u;
    for (var i = 0u; i < 32u; i++) {
        let dim = block * 32u + i;
        var bits = 0u;
        if dim < SIDE_DIM {
            bits = side_element(place, token, dim);
        }
        elements[i] = bits;
        // The first of the largest magnitude, with its sign.
        if i == 0u || (bits & 0x7fffffffu) > (largest & 0x7fffffffu) {
            largest = bits;
        }
    }
    // An infinity or a NaN makes the block one of NaN, with codes of zero.
    let broken = (largest & 0x7fffffffu) >= 0x7f800000u;
    let scale = select(side_scale(largest), 0u, broken);
    var inverse = 0u;
    if (scale & 0x7fffffffu) != 0u {
        inverse = float_divide(0x3f800000u, scale);
    }
    if (inverse & 0x7fffffffu) >= 0x7f800000u {
        inverse = 0u;
    }
    for (var word = 0u; word < SIDE_BLOCK_WORDS; word++) {
        var codes = 0u;
        for (var i = 0u; i < 4u; i++) {
            codes |= side_byte(elements[word * 4u + i], elements[(word * 4u + i + 16u) % 32u], inverse) << (8u * i);
        }
        side_planes[side_codes_at(place.plane, slot, block * SIDE_BLOCK_WORDS + word)] = select(codes, 0u, broken);
    }
    return select(f16_encode(scale), 0x7e00u, broken);
}

fn side_part(place: Place, run: Run, slot: u32, part: u32) {
    var scales = 0u;
    let more = part * 2u + 1u < SIDE_BLOCKS;
    if slot >= run.start {
        let token = run.token + (slot - run.start);
        scales = side_block(place, token, slot, part * 2u);
        if more {
            scales |= side_block(place, token, slot, part * 2u + 1u) << 16u;
        }
    } else {
        let words = select(SIDE_BLOCK_WORDS, 2u * SIDE_BLOCK_WORDS, more);
        for (var word = 0u; word < words; word++) {
            side_planes[side_codes_at(place.plane, slot, part * 2u * SIDE_BLOCK_WORDS + word)] = 0u;
        }
    }
    side_planes[side_scales_at(place.plane, slot, part)] = scales;
}
