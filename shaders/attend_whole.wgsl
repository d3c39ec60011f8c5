// attend_whole: all positions are read by one workgroup, which writes the output.

fn finish(row: Row, plane: u32, split: u32, vector: u32, sum: vec4<f32>, largest: f32, weight: f32) {
    write_output(row, vector, sum, weight);
}
