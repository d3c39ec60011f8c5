// one: planes are bound as words. The host writes `side_word(plane, word)`.

fn side_two(plane: u32, pair: u32) -> vec2<u32> {
    return vec2<u32>(side_word(plane, 2u * pair), side_word(plane, 2u * pair + 1u));
}

fn side_four(plane: u32, quad: u32) -> vec4<u32> {
    return vec4<u32>(side_two(plane, 2u * quad), side_two(plane, 2u * quad + 1u));
}
