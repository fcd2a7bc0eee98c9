. ../../utils/path.sh
