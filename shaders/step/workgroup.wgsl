// workgroup: the number of threads in a workgroup, for all kernels except those of attention.

const WORKGROUP_SIZE = 256u;
