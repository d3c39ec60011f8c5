// pack_words: a part of a packed row is one of its words, as the source has it. Joined once as key_ and once as value_.

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
