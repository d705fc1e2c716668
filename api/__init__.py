"""The HTTP side of Corral. It reads and writes the database and reads log files; it never touches a process."""
