// converted: reads one stored element and converts it to the format of the output, by way of the bits of an f32.

#import ../../format/{words,fp8_e4m3,q8_0,q4_0}/unpack.wgsl
#import ../../format/{bits,f16,bf16}/encode.wgsl as output

fn stored(plane: u32, slot: u32, dim: u32) -> u32 {
    return output_encode(unpacked(plane * PLANE_WORDS, slot, dim));
}
