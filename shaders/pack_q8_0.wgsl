// pack_q8_0: ggml's Q8_0. A byte is one element: x × (1 ÷ d), rounded to f32 and then to an integer, halves away from zero. Joined
// once as key_ and once as value_, after pack_blocks.

fn side_scale(largest: u32) -> u32 {
    return float_divide(largest & 0x7fffffffu, 0x42fe0000u);
}

fn side_byte(element: u32, later: u32, inverse: u32) -> u32 {
    let product = float_multiply(element, inverse);
    let exponent = (product >> 23u) & 0xffu;
    if exponent < 126u {
        return 0u;
    }
    let shift = 150u - exponent;
    let code = (((product & 0x7fffffu) | 0x800000u) + (1u << (shift - 1u))) >> shift;
    return select(code, (~code + 1u) & 0xffu, (product >> 31u) == 1u);
}
