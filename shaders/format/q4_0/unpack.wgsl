// unpack: Q4_0. A byte holds an element in its lower half and the element 16 later in its upper half.

#import ../blocks/unpack.wgsl

fn code_of(row: u32, dim: u32) -> i32 {
    let word = planes[row + dim / 32u * 4u + (dim % 16u) / 4u];
    return i32((word >> ((dim % 4u) * 8u + (dim % 32u) / 16u * 4u)) & 15u) - 8;
}
