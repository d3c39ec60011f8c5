// whole: all positions are read by one workgroup, which writes the output.

#import ../output.wgsl

fn begin(group: vec3<u32>, groups: vec3<u32>, local: u32) {
}

fn finish(row: Row, part: u32, vector: u32, sum: vec4<f32>, largest: f32, weight: f32) {
    write_output(row, vector, sum, largest, weight);
}
