// write_together: the threads of a block find its scale together, and each writes one word of its codes. For scatter,
// where a side is quantised to blocks.
//
// Bounds:  all threads of a workgroup reach the barriers; one whose place is not inside reads and writes nothing.

// What a thread has read of a block: elements in order, those of Q4_0 from both halves.
struct Staged {
    first: vec4<u32>,
    second: vec4<u32>,
}

// The number of the larger magnitude, the first of two equal ones.
fn larger(a: u32, b: u32) -> u32 {
    return select(a, b, (b & 0x7fffffffu) > (a & 0x7fffffffu));
}

fn largest_of(elements: vec4<u32>) -> u32 {
    return larger(larger(elements.x, elements.y), larger(elements.z, elements.w));
}

fn write_unit(place: Place, unit: u32, local: u32) {
    let run = written(place.run);
    let key = key_stage(place, run, unit, local);
    let value = value_stage(place, run, unit, local);
    workgroupBarrier();
    key_write(place, run, unit, local, key);
    value_write(place, run, unit, local, value);
    workgroupBarrier();
    if place.inside {
        key_finish(place, run, unit, local);
        value_finish(place, run, unit, local);
    }
}
