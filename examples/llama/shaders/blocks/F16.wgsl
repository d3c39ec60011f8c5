// F16: 32 weights of 16 bits.

fn four(at: u32) -> vec4<f32> {
    let low = weights[at];
    let high = weights[at + 1u];
    return vec4<f32>(float_of(low & 0xffffu), float_of(low >> 16u), float_of(high & 0xffffu), float_of(high >> 16u));
}

fn weights_of(block: u32) -> array<vec4<f32>, 8> {
    let at = block * 16u;
    return array<vec4<f32>, 8>(
        four(at), four(at + 2u), four(at + 4u), four(at + 6u),
        four(at + 8u), four(at + 10u), four(at + 12u), four(at + 14u),
    );
}
