// f16: unpacks the two elements of a word.

fn side_pair(word: u32) -> vec2<f32> {
    return unpack2x16float(word);
}
