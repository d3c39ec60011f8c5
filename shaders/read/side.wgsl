// side: keys or values. A vector is four elements, 4 i to 4 i + 3; what lies past the head size is zero. The host writes
// the constants and `side_load`, which loads from the segment of a plane; the format's read defines `side_at`.

// Vector `i` of the row of a sequence, head and position. The position must be valid.
fn side(sequence: u32, head: u32, position: u32, i: u32) -> vec4<f32> {
    return side_at(reader_plane(sequence, head), reader_slot(position), i);
}
