// side: keys or values. A vector is four elements, 4 i to 4 i + 3; a unit is what one load brings, of as many vectors
// as `side_unit_vectors` says. What lies past the head size is zero. The host writes the constants and a load from the
// segment of a plane, loads/ makes loads of 4, 8 and 16 bytes of it, the format's read defines `side_at`, and its unit
// `side_unit_at` and `side_vector`.

// Vector `i` of the row of a sequence, head and position. The position must be valid.
fn side(sequence: u32, head: u32, position: u32, i: u32) -> vec4<f32> {
    return side_at(reader_plane(sequence, head), reader_slot(position), i);
}
