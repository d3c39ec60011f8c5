// read: f16 or bf16, four elements per load.

#import ../pair/{f16,f16_of_integers,bf16}.wgsl as side

fn side_of(row: reader_row, i: u32) -> vec4<f32> {
    let words = side_two(row.plane, row.slot * side_vectors + i);
    return vec4<f32>(side_pair(words.x), side_pair(words.y));
}
