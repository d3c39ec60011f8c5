// side: keys or values. A vector is four elements, 4 i to 4 i + 3; a unit is what one load brings, of as many vectors
// as `side_unit_vectors` says. What lies past the head size is zero. The host writes the constants and a load from the
// segment of a plane, loads/ makes loads of 4, 8 and 16 bytes of it, the format's read defines `side_of`, and its unit
// `side_unit_of` and `side_vector`.

// Vector `i` of the row of a sequence, head and position. The position must be valid.
fn side(sequence: u32, head: u32, position: u32, i: u32) -> vec4<f32> {
    return side_of(reader_row_of(sequence, head, position), i);
}

// The same of a plane and slot.

fn side_at(plane: u32, slot: u32, i: u32) -> vec4<f32> {
    return side_of(reader_row_at(plane, slot), i);
}

fn side_8_at(plane: u32, slot: u32, i: u32) -> array<vec4<f32>, 2> {
    return side_8_of(reader_row_at(plane, slot), i);
}

fn side_16_at(plane: u32, slot: u32, i: u32) -> array<vec4<f32>, 4> {
    return side_16_of(reader_row_at(plane, slot), i);
}

fn side_32_at(plane: u32, slot: u32, i: u32) -> array<vec4<f32>, 8> {
    return side_32_of(reader_row_at(plane, slot), i);
}

fn side_unit_at(plane: u32, slot: u32, u: u32) -> side_unit {
    return side_unit_of(reader_row_at(plane, slot), u);
}
