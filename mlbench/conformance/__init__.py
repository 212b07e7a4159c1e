"""Does a method keep the contract? One suite for ours and for anybody's, and the tiny data it runs on."""
