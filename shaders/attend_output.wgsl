// attend_output: writes one vector of a row of the output, which it divides by the sum of the weights. A row that sees
// nothing is zero.

fn write_output(row: Row, vector: u32, sum: vec4<f32>, weight: f32) {
    let numbers = select(sum / weight, vec4<f32>(), weight == 0.0);
    let dim = 4u * vector;
    for (var i = 0u; i < 4u; i += OUTPUT_LANES) {
        if dim + i < cache_value_dim {
            var word = output_bits(numbers[i]);
            if OUTPUT_LANES == 2u {
                word |= output_bits(numbers[i + 1u]) << 16u;
            }
            output[(row.output + dim + i) / OUTPUT_LANES] = word;
        }
    }
}
