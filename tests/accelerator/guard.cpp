// Device guards that do nothing, so that torch built for CPUs accepts tensors that say they are on cuda or mps.
#include <c10/core/impl/FakeGuardImpl.h>

namespace c10::impl {
C10_REGISTER_GUARD_IMPL(CUDA, FakeGuardImpl<DeviceType::CUDA>)
C10_REGISTER_GUARD_IMPL(MPS, FakeGuardImpl<DeviceType::MPS>)
}  // namespace c10::impl
