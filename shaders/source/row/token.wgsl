// token: finds a row in the window of the caller's buffer, in elements, for a step of one token from a source that is
// bound in one piece. The strides are then pipeline constants. The kernel defines `chunk`.
//
// Bounds:  the host ensures that the window holds every row.

override SIDE_SEQUENCE_STRIDE: u32;
override SIDE_HEAD_STRIDE: u32;

fn side_source_row(place: Place, token: u32) -> u32 {
    return chunk.side_offset + place.run.sequence * SIDE_SEQUENCE_STRIDE + place.head * SIDE_HEAD_STRIDE;
}
