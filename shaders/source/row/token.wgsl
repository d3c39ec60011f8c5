// token: where a row lies in the window of the caller's buffer, in elements, for a source of one token that is bound in
// one piece. `chunk` is the kernel's.
//
// Bounds:  the host proves that the window holds every row.

override SIDE_SEQUENCE_STRIDE: u32;
override SIDE_HEAD_STRIDE: u32;

fn side_source_row(place: Place, token: u32) -> u32 {
    return chunk.side_offset + place.run.sequence * SIDE_SEQUENCE_STRIDE + place.head * SIDE_HEAD_STRIDE;
}
