// output: writes one vector of a row of the output, which it divides by the sum of the weights. A row that sees nothing
// is zero.

#import ../format/{bits,f16,bf16}/encode.wgsl as output
#import sinks/{none,added}.wgsl

@group(0) @binding(2) var<storage, read_write> output: array<u32>;

override OUTPUT_LANES: u32; // elements of a word: 2 of a 16-bit format, else 1

// `sum` and `weight` are made with the score `largest`.
fn write_output(row: Row, vector: u32, sum: vec4<f32>, largest: f32, weight: f32) {
    let joined = joined_sink(row.head, largest, weight);
    let numbers = select(sum * joined.x / joined.y, vec4<f32>(), joined.y == 0.0);
    let dim = 4u * vector;
    for (var i = 0u; i < 4u; i += OUTPUT_LANES) {
        if dim + i < cache_value_dim {
            var word = output_encode(bitcast<u32>(numbers[i]));
            if OUTPUT_LANES == 2u {
                word |= output_encode(bitcast<u32>(numbers[i + 1u])) << 16u;
            }
            output[(row.output + dim + i) / OUTPUT_LANES] = word;
        }
    }
}
