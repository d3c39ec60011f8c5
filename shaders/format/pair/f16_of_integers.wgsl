// f16_of_integers: unpacks the two elements of a word, on devices without unpack2x16float.

fn side_pair(word: u32) -> vec2<f32> {
    let half = vec2<u32>(word & 0xffffu, word >> 16u);
    let magnitude = half & vec2<u32>(0x7fffu);
    // A subnormal, as the difference of two normal f32.
    let small = bitcast<vec2<u32>>(
        bitcast<vec2<f32>>((magnitude << vec2<u32>(13u)) | vec2<u32>(0x38800000u)) - vec2<f32>(0.00006103515625),
    );
    let normal = (magnitude << vec2<u32>(13u)) + vec2<u32>(0x38000000u);
    let finite = select(small, normal, magnitude >= vec2<u32>(0x400u));
    let special = (magnitude << vec2<u32>(13u)) | vec2<u32>(0x7f800000u);
    let number = select(finite, special, magnitude >= vec2<u32>(0x7c00u));
    return bitcast<vec2<f32>>(number | ((half & vec2<u32>(0x8000u)) << vec2<u32>(16u)));
}
