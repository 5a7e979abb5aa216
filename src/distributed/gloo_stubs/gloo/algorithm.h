// ProcessGroupGloo.hpp includes Gloo's headers, which libtorch's package leaves out; it needs them for pointers only.
#pragma once
namespace gloo {
class Algorithm;
}
