// unpack: a byte is an element and the one 16 later.

#import ../blocks/unpack.wgsl

fn code_of(row: u32, dim: u32) -> i32 {
    let word = planes[row + dim / 32u * 4u + (dim % 16u) / 4u];
    return i32((word >> ((dim % 4u) * 8u + (dim % 32u) / 16u * 4u)) & 15u) - 8;
}
