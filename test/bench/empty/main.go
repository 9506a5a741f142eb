// empty is the smallest Go program. Its start and end are part of those of every plugin.
package main

func main() {}
