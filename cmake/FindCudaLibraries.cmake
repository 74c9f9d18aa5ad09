# cuBLASLt, cuDNN with its frontend, and NCCL, each with headers and library, as imported targets
#   plumb::cublas_lt  plumb::cudnn  plumb::cudnn_frontend  plumb::nccl
# looked for in the CUDA toolkit, in the system's folders, and in the site-packages folder of a Python in which
# NVIDIA's packages are installed (tools/setup.sh puts them into .venv). PLUMB_PYTHON_SITE names another such folder.
# CudaLibraries_MISSING lists what was not found. The libraries carry their version in their names there and have
# no link without it, so they are found by file name.
set(PLUMB_PYTHON_SITE "" CACHE PATH "site-packages folder with NVIDIA's libraries; empty: the one in .venv")

set(site ${PLUMB_PYTHON_SITE})
if(NOT site)
  file(GLOB site ${PROJECT_SOURCE_DIR}/.venv/lib/python3*/site-packages)
endif()

set(CudaLibraries_MISSING)
# plumb_find_cuda_library(TARGET HEADER LIBRARY... ): a target with the header's folder and the first library found.
function(plumb_find_cuda_library name header)
  find_path(CudaLibraries_${name}_include ${header}
    HINTS ${CUDAToolkit_INCLUDE_DIRS} ${site} PATH_SUFFIXES include nvidia/cu13/include nvidia/cudnn/include nvidia/nccl/include)
  mark_as_advanced(CudaLibraries_${name}_include)
  set(found ${CudaLibraries_${name}_include})
  if(ARGN)
    find_library(CudaLibraries_${name}_library NAMES ${ARGN}
      HINTS ${CUDAToolkit_LIBRARY_DIR} ${site} PATH_SUFFIXES nvidia/cu13/lib nvidia/cudnn/lib nvidia/nccl/lib)
    mark_as_advanced(CudaLibraries_${name}_library)
    if(NOT CudaLibraries_${name}_library)
      set(found FALSE)
    endif()
  endif()
  if(NOT found)
    list(APPEND CudaLibraries_MISSING ${name})
    set(CudaLibraries_MISSING ${CudaLibraries_MISSING} PARENT_SCOPE)
    return()
  endif()
  if(TARGET plumb::${name})
    return()
  endif()
  if(ARGN)
    add_library(plumb::${name} UNKNOWN IMPORTED)
    set_target_properties(plumb::${name} PROPERTIES IMPORTED_LOCATION ${CudaLibraries_${name}_library})
  else()
    add_library(plumb::${name} INTERFACE IMPORTED)
  endif()
  set_target_properties(plumb::${name} PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES ${CudaLibraries_${name}_include}
    INTERFACE_SYSTEM_INCLUDE_DIRECTORIES ${CudaLibraries_${name}_include})
endfunction()

plumb_find_cuda_library(cublas_lt cublasLt.h cublasLt libcublasLt.so.13)
plumb_find_cuda_library(cudnn cudnn.h cudnn libcudnn.so.9)
plumb_find_cuda_library(cudnn_frontend cudnn_frontend.h)
plumb_find_cuda_library(nccl nccl.h nccl libnccl.so.2)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(CudaLibraries
  REQUIRED_VARS CudaLibraries_cublas_lt_include CudaLibraries_cublas_lt_library CudaLibraries_cudnn_include
    CudaLibraries_cudnn_library CudaLibraries_cudnn_frontend_include CudaLibraries_nccl_include CudaLibraries_nccl_library)
