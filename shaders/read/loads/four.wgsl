// four: planes are bound as four words. The host writes `side_four(plane, quad)` and `side_word(plane, word)`.

fn side_two(plane: u32, pair: u32) -> vec2<u32> {
    return vec2<u32>(side_word(plane, 2u * pair), side_word(plane, 2u * pair + 1u));
}
