// two: planes are bound as pairs of words. The host writes `side_two(plane, pair)`.

fn side_word(plane: u32, word: u32) -> u32 {
    let pair = side_two(plane, word / 2u);
    return select(pair.x, pair.y, word % 2u == 1u);
}

fn side_four(plane: u32, quad: u32) -> vec4<u32> {
    return vec4<u32>(side_two(plane, 2u * quad), side_two(plane, 2u * quad + 1u));
}
