// unpack: Q8_0. A byte holds one element.

#import ../blocks/unpack.wgsl

fn code_of(row: u32, dim: u32) -> i32 {
    let word = planes[row + dim / 4u];
    return bitcast<i32>(word << (24u - (dim % 4u) * 8u)) >> 24u;
}
