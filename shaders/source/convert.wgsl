// convert: converts an element of the source to the stored format, or to the bits of an f32 if rows are quantised.

#import ../format/{bits,f16,bf16}/decode.wgsl as side
#import ../format/{bits,f16,bf16}/encode.wgsl as side

fn side_convert(bits: u32) -> u32 {
    return side_encode(side_decode(bits));
}
