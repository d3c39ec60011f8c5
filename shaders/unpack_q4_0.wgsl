// unpack_q4_0: a byte is an element and the one 16 later.

fn code_of(row: u32, dim: u32) -> i32 {
    let word = planes[row + dim / 32u * 4u + (dim % 16u) / 4u];
    return i32((word >> ((dim % 4u) * 8u + (dim % 32u) / 16u * 4u)) & 15u) - 8;
}
