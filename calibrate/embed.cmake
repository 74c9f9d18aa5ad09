# cmake -D OUT=FILE -D FILES=a.json;b.json -P embed.cmake: writes a C++ file that holds the documents.
set(entries "")
foreach(file IN LISTS FILES)
  get_filename_component(name ${file} NAME_WE)
  file(READ ${file} content)
  string(APPEND entries "      {\"${name}\", R\"json(${content})json\"},\n")
endforeach()
file(WRITE ${OUT}.new "// Made at build time from calibrate/bundled.
#include \"calibrate/calibration.hpp\"

namespace plumb {

const std::map<std::string_view, std::string_view>& bundled_calibrations() {
  static const std::map<std::string_view, std::string_view> documents{
${entries}  };
  return documents;
}

}  // namespace plumb
")
file(COPY_FILE ${OUT}.new ${OUT} ONLY_IF_DIFFERENT)
