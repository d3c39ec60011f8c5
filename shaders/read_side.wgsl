// read_side: keys or values. A vector is four elements, 4 i to 4 i + 3; what lies past the head size is zero.

const reader_side_dim: u32 = READER_SIDE_DIMu;
const reader_side_vectors: u32 = READER_SIDE_VECTORSu;

// Vector `i` of the row of a sequence, head and position. The position must be valid.
fn reader_side(sequence: u32, head: u32, position: u32, i: u32) -> vec4<f32> {
    return reader_side_at(reader_plane(sequence, head), reader_slot(position), i);
}
